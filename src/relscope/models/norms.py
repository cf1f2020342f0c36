"""Which part of a norm's output comes from which part of its input?

A norm is not linear, but with the scale that it had on the whole input it is:

    norm(x) = bias + gain * C x / scale(x),     so of x = a + b + ...:   gain * C a / scale(x) is the part of a

C x is x (RMS norm) or x less its mean (layer norm), scale(x) one number for each position. Gain and bias are found by
probing, whatever a family calls its weights and adds to them (Gemma: 1 + weight); what does not fit the formula is
refused. Cost: three rows through the norm, and each row of x once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from relscope.errors import InputError

# So large that no epsilon beside its mean square shows in a float32.
_PROBE_SIZE = 1024.0


@dataclass(frozen=True)
class LinearNorm:
    """A norm, as what is linear in it and the scale that is not.

    Attributes:
        module: the norm.
        gain: multiplies each entry.
        bias: what comes of an input of zeros.
        is_centred: whether the input's mean is taken off it first.
    """

    module: nn.Module
    gain: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"]
    is_centred: bool

    def unscaled(self, part: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row d_model"]:
        """`gain * C part`: times the inverse scale of the whole, the part's share of the normed whole. Float32."""
        return self.gain * _centred(part.float(), self.is_centred)

    def inverse_scale(self, whole: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row"]:
        """What the norm multiplies each row by, beside its gain; float32. For a row of zeros, 0.

        Raises:
            InputError: the norm does something else to one of the rows.
        """
        if isinstance(self.module, nn.Identity):
            return torch.ones(whole.shape[:-1], device=whole.device)
        unscaled, normed = self.unscaled(whole), self.module(whole).float() - self.bias
        if not _is_multiple(normed, unscaled, whole.dtype):
            raise _not_linear(self.module)
        return _factor(normed, unscaled)


@torch.no_grad()
def linear_norm(norm: nn.Module, like: Float[Tensor, "*row d_model"]) -> LinearNorm:
    """Find a norm's gain and bias, by what it does to three rows of known numbers.

    Args:
        norm: of any family; the identity where there is none.
        like: a tensor of the width, number format and device that the norm is given.

    Raises:
        InputError: the norm is neither an RMS norm nor a layer norm; the message names its class.
    """
    width = like.shape[-1]
    if isinstance(norm, nn.Identity):
        return LinearNorm(norm, torch.ones(width, device=like.device), torch.zeros(width, device=like.device), False)
    place = torch.arange(width, device=like.device)
    # Alternately 3 and -1: no entry is zero, be the mean taken off or not.
    probe = (_PROBE_SIZE * (1.0 + 2.0 * (-1.0) ** place)).to(like.dtype)
    check = (_PROBE_SIZE * (0.5 + torch.cos(place.float()))).to(like.dtype)
    bias = norm(torch.zeros_like(probe)).float()
    of_probe, of_check = norm(probe).float() - bias, norm(check).float() - bias
    for is_centred in (False, True):
        unscaled = _centred(probe.float(), is_centred)
        gain = of_probe * unscaled.square().mean().sqrt() / unscaled
        if _is_multiple(of_check, gain * _centred(check.float(), is_centred), like.dtype):
            return LinearNorm(norm, gain, bias, is_centred)
    raise _not_linear(norm)


def _centred(values: Tensor, is_centred: bool) -> Tensor:
    return values - values.mean(-1, keepdim=True) if is_centred else values


def _factor(rows: Float[Tensor, "*row d_model"], of: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row"]:
    """By which number each row of `of` has to be multiplied to come nearest to `rows`."""
    size = of.square().sum(-1)
    return (of * rows).sum(-1) / size.clamp(min=torch.finfo(size.dtype).tiny)


def _is_multiple(rows: Tensor, of: Tensor, dtype: torch.dtype) -> bool:
    """Whether each row is a multiple of that of `of`, up to what `dtype` rounds."""
    # As in the contract: bf16 keeps 8 bits of mantissa, float32 24.
    tolerance = 1e-4 if dtype in (torch.float32, torch.float64) else 5e-2
    gap = (of * _factor(rows, of)[..., None] - rows).abs().amax(-1)
    return bool((gap <= tolerance * rows.abs().amax(-1)).all())


def _not_linear(norm: nn.Module) -> InputError:
    return InputError(
        f"norm {type(norm).__name__!r} is neither an RMS norm nor a layer norm: what single heads and MLPs contribute "
        "behind it cannot be told apart; patch them instead"
    )
