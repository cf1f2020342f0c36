"""The restart's attention against plain attention written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from families import as_judge, tiny_model
from relscope.models import attention
from relscope.models.attention import (
    NAME,
    AttentionCall,
    SharedPrefixAttention,
    attend,
    attention_replaced,
)
from relscope.models.recording import Recorder


def written_out(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float, softcap: float | None
) -> Tensor:
    """z of one item, [pos, head, d_head], by loops over heads, positions and sources."""
    n_heads, n_pos, d_head = query.shape
    n_groups = n_heads // key.shape[0]
    z = torch.zeros(n_pos, n_heads, d_head, dtype=torch.float64)
    for head in range(n_heads):
        k, v = key[head // n_groups].double(), value[head // n_groups].double()
        for pos in range(n_pos):
            seen = [src for src in range(k.shape[0]) if mask[pos, src]]
            scores = [float(query[head, pos].double() @ k[src]) * scaling for src in seen]
            if softcap is not None:
                scores = [softcap * math.tanh(score / softcap) for score in scores]
            weights = [math.exp(score - max(scores)) for score in scores]
            for weight, src in zip(weights, seen, strict=True):
                z[pos, head] += weight / sum(weights) * v[src]
    return z


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize(("n_heads", "n_kv_heads"), [(4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize(("n_prefix", "n_pos"), [(5, 4), (0, 6), (8, 1)])
def test_a_shared_prefix_attends_like_each_item_alone(
    n_prefix: int, n_pos: int, n_heads: int, n_kv_heads: int, window: int | None, softcap: float | None
) -> None:
    generator = torch.Generator().manual_seed(n_prefix * 100 + n_heads)
    d_head, n_items = 4, 3

    def draw(*shape: int) -> Tensor:
        return 2 * torch.randn(*shape, generator=generator)

    prefix_k, prefix_v = draw(n_kv_heads, n_prefix, d_head), draw(n_kv_heads, n_prefix, d_head)
    query = draw(n_items, n_heads, n_pos, d_head)
    key, value = draw(n_items, n_kv_heads, n_pos, d_head), draw(n_items, n_kv_heads, n_pos, d_head)
    whole = torch.ones(n_prefix + n_pos, n_prefix + n_pos, dtype=torch.bool).tril()
    if window is not None:
        whole = whole.triu(1 - window)
    mask = whole[n_prefix:]
    call = AttentionCall(0, query, key, value, None, scaling=0.7, softcap=softcap)
    found = SharedPrefixAttention(prefix_k, prefix_v, mask)(call)
    assert found.shape == (n_items, n_pos, n_heads, d_head)
    for item in range(n_items):
        keys, values = torch.cat([prefix_k, key[item]], 1), torch.cat([prefix_v, value[item]], 1)
        wanted = written_out(query[item], keys, values, mask, 0.7, softcap)
        # float32 against float64, values of order 1
        torch.testing.assert_close(found[item].double(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_plain_attention_is_as_written_out_and_its_patterns_sum_to_1(softcap: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, 6, 5, 4, generator=generator)
    key, value = torch.randn(1, 2, 5, 4, generator=generator), torch.randn(1, 2, 5, 4, generator=generator)
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    call = AttentionCall(0, query, key, value, None, scaling=0.5, softcap=softcap)
    wanted = written_out(query[0], key[0], value[0], mask, 0.5, softcap)
    seen: dict[str, torch.Tensor] = {}

    def see(component: str, values: torch.Tensor, _n_behind: int = 0) -> torch.Tensor:
        return seen.setdefault(component, values)

    torch.testing.assert_close(attend(call, mask, see)[0].double(), wanted, rtol=1e-5, atol=1e-5)
    pattern = seen["pattern"]
    torch.testing.assert_close(pattern.sum(-1), torch.ones(1, 6, 5))
    assert (pattern.masked_select(~mask) == 0).all()


def test_the_name_stands_only_inside_the_context() -> None:
    config = tiny_model("llama", 50).config
    before = config._attn_implementation
    with attention_replaced(config, Recorder()):
        assert config._attn_implementation == NAME
    assert config._attn_implementation == before
    with pytest.raises(KeyError), attention_replaced(config, Recorder()):
        raise KeyError
    assert config._attn_implementation == before


@pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3_text", "qwen2 sliding"])
def test_recorded_masks_are_the_models_own_windows(family: str) -> None:
    judge = as_judge(tiny_model(family, 50))
    run = judge.record(list(range(3, 43)))
    causal = torch.ones(40, 40, dtype=torch.bool).tril()
    windowed = causal.triu(1 - 16)  # a position sees itself and the 15 before it
    layer_types = getattr(judge.config, "layer_types", None) or ["sliding_attention"] * 4
    assert "sliding_attention" in layer_types
    for mask, kind in zip(run.mask, layer_types, strict=True):
        assert torch.equal(mask, windowed if kind == "sliding_attention" else causal)


@pytest.mark.parametrize("most_scores", [1, 100, 400, 10**6])
@pytest.mark.parametrize("n_prefix", [0, 5])
def test_attention_in_blocks_is_the_same(most_scores: int, n_prefix: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(3, 4, 7, 8, generator=generator)
    key, value = torch.randn(2, 3, 2, 9, 8, generator=generator)  # the destinations are the last 7 of 9
    prefix_k, prefix_v = torch.randn(2, 2, n_prefix, 8, generator=generator)
    mask = torch.ones(n_prefix + 9, n_prefix + 9, dtype=torch.bool).tril().triu(-8)[-7:]
    call = AttentionCall(0, query, key, value, None, scaling=0.7, softcap=None)
    whole = SharedPrefixAttention(prefix_k, prefix_v, mask)(call)
    monkeypatch.setattr(attention, "MOST_SCORES", most_scores)
    in_blocks = SharedPrefixAttention(prefix_k, prefix_v, mask)(call)
    # float32, values of order 1
    torch.testing.assert_close(in_blocks, whole, rtol=1e-5, atol=1e-5)
