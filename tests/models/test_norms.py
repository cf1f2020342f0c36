"""Norms taken apart: by hand, and their parts summed to what the norm itself gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from relscope.errors import InputError
from relscope.models import linear_norm

WIDTH = 7  # odd: no probe of alternating signs has a mean of zero then


def drawn(norm: Any, seed: int = 0) -> Any:
    """The norm with random parameters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    return norm.requires_grad_(False)


NORMS = {
    "llama": lambda: LlamaRMSNorm(WIDTH, eps=1e-5),
    "gemma": lambda: Gemma2RMSNorm(WIDTH, eps=1e-6),
    "torch rms": lambda: nn.RMSNorm(WIDTH, eps=0.1),
    "without weights": lambda: nn.RMSNorm(WIDTH, elementwise_affine=False),
    "layer norm": lambda: nn.LayerNorm(WIDTH),
    "layer norm without bias": lambda: nn.LayerNorm(WIDTH, bias=False),
    "layer norm without weights": lambda: nn.LayerNorm(WIDTH, elementwise_affine=False),
    "none": nn.Identity,
}


@pytest.mark.parametrize("name", NORMS)
def test_parts_and_bias_sum_to_the_normed_whole(name: str) -> None:
    norm = drawn(NORMS[name]())
    parts = torch.randn(3, 5, WIDTH, generator=torch.Generator().manual_seed(1))  # [part row d_model]
    whole = parts.sum(0)
    found = linear_norm(norm, whole)
    assert found.is_centred == name.startswith("layer norm")
    total = found.unscaled(parts).sum(0) * found.inverse_scale(whole)[:, None] + found.bias
    # Entries of order 1 in float32.
    torch.testing.assert_close(total, norm(whole), atol=2e-6, rtol=2e-6)


def test_a_layer_norm_by_hand() -> None:
    norm = nn.LayerNorm(4, eps=1e-12).requires_grad_(False)
    norm.weight.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    norm.bias.fill_(0.5)
    whole = torch.tensor([6.0, 2.0, 2.0, -2.0])  # mean 2; centred (4, 0, 0, -4), deviation sqrt(8)
    found = linear_norm(norm, whole)
    assert found.gain.tolist() == pytest.approx([1.0, 2.0, 3.0, 4.0], rel=1e-6)  # float32
    assert found.bias.tolist() == [0.5] * 4
    assert float(found.inverse_scale(whole)) == pytest.approx(8**-0.5, rel=1e-6)
    # a part (4, 0, 0, 0), of mean 1: weight times (3, -1, -1, -1)
    assert found.unscaled(torch.tensor([4.0, 0.0, 0.0, 0.0])).tolist() == pytest.approx([3, -2, -3, -4], rel=1e-6)


def test_an_rms_norm_by_hand() -> None:
    norm = Gemma2RMSNorm(2, eps=1e-12).requires_grad_(False)  # multiplies by 1 + weight
    norm.weight.copy_(torch.tensor([0.0, 2.0]))
    whole = torch.tensor([3.0, 4.0])  # mean square 12.5
    found = linear_norm(norm, whole)
    assert found.unscaled(torch.tensor([1.0, 1.0])).tolist() == pytest.approx([1.0, 3.0], rel=1e-6)
    assert float(found.inverse_scale(whole)) == pytest.approx(12.5**-0.5, rel=1e-6)


def test_a_row_of_zeros_has_no_parts() -> None:
    norm = drawn(LlamaRMSNorm(WIDTH))
    rows = torch.stack([torch.zeros(WIDTH), torch.ones(WIDTH)])
    # rms(1, 1, ...) = 1
    assert linear_norm(norm, rows).inverse_scale(rows).tolist() == pytest.approx([0.0, 1.0], rel=1e-5)


def test_bfloat16_norms_are_known_to_their_precision() -> None:
    for norm in (drawn(LlamaRMSNorm(64)), drawn(nn.LayerNorm(64))):
        whole = torch.randn(64, generator=torch.Generator().manual_seed(1)).bfloat16()
        found = linear_norm(norm.bfloat16(), whole)
        total = found.unscaled(whole) * found.inverse_scale(whole) + found.bias
        # 8 bits of mantissa, of entries of up to 4, rounded in the gain and in the result
        torch.testing.assert_close(total, norm(whole).float(), atol=0.05, rtol=0)


class _Tanh(nn.Module):
    """The "dynamic tanh" that some models have in place of a norm."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(0.3 * x)


class _OfGroups(nn.Module):
    """An RMS norm of each half of the entries: two scales."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        halves = x.unflatten(-1, (2, -1))
        return (halves * torch.rsqrt(halves.square().mean(-1, keepdim=True) + 1e-6)).flatten(-2)


@pytest.mark.parametrize("norm", [_Tanh(), _OfGroups()], ids=["tanh", "two scales"])
def test_what_is_no_norm_of_one_scale_is_refused_by_name(norm: nn.Module) -> None:
    with pytest.raises(InputError, match=f"norm '{type(norm).__name__}' is neither an RMS norm nor a layer norm"):
        linear_norm(norm, torch.randn(8))


def test_a_norm_that_gives_no_numbers_is_refused() -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.nan

    with pytest.raises(InputError, match="norm 'Broken'"):
        linear_norm(Broken(), torch.randn(8))
