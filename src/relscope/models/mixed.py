"""How does a model take half the memory, and still compute in float32? Weights in bfloat16, activations in float32.

The weights of a checkpoint that is stored in bfloat16 are exact so. A layer's matrices stay in bfloat16 and are widened
one at a time, as their product is taken; all else (embeddings, norms, biases) is widened once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

WEIGHTS = torch.bfloat16
"""Number format of the matrices."""


class WideningLinear(nn.Linear):
    """A linear layer whose matrix is widened to the number format of what it is given."""

    def forward(self, input: Tensor) -> Tensor:
        """The product."""
        return functional.linear(input, self.weight.to(input.dtype), self.bias)


class WideningConv1D(Conv1D):
    """The same for the layout of GPT-2."""

    def forward(self, x: Tensor) -> Tensor:
        """The product."""
        return functional.linear(x, self.weight.T.to(x.dtype), self.bias)


_WIDENING: dict[type, type] = {nn.Linear: WideningLinear, Conv1D: WideningConv1D}
LINEAR_TYPES = (*_WIDENING, *_WIDENING.values())
"""Types of dense linear modules."""


def widen_activations(model: Any) -> None:
    """Make a model whose weights are in bfloat16 compute in float32; in place."""
    matrices = set()
    for module in model.modules():
        if type(module) in _WIDENING:
            module.__class__ = _WIDENING[type(module)]
            if "_old_forward" in module.__dict__:  # accelerate has put a forward of its own before it
                module._old_forward = type(module).forward.__get__(module)
            matrices.add(id(module.weight))
    embedded = {id(parameter) for parameter in model.get_input_embeddings().parameters()}
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point() and (id(tensor) not in matrices or id(tensor) in embedded):
            tensor.data = tensor.data.float()
