"""The model's plain patch: while a context is open, one activation is replaced by a hook."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from relscope.models.architectures import DecoderLayer, first_tensor
from relscope.models.recording import RecordedRun


@contextlib.contextmanager
def patched(
    layer: DecoderLayer, component: str, head: int | None, positions: Sequence[int], source: RecordedRun
) -> Iterator[None]:
    """Within the context, a component of `layer` takes its values in `source` at the positions.

    Args:
        layer: the layer to patch.
        component: "attn_out", "mlp_out", "resid_post", or "z" with its `head`.
        head: which head's output is replaced; None for the other components.
        positions: where in the prompt.
        source: the recorded run that the values come from.
    """
    at, index = list(positions), layer.index

    def replace_output(values: Tensor) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
            changed = first_tensor(output).clone()
            changed[:, at] = values[at]
            return changed if isinstance(output, Tensor) else (changed, *output[1:])

        return hook

    def replace_head(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        z = args[0].clone()
        z.view(*z.shape[:-1], *source.z.shape[-2:])[:, at, head] = source.z[index, at, head]
        return (z, *args[1:])

    if component == "z":
        handle = layer.out_proj.register_forward_pre_hook(replace_head)
    elif component == "attn_out":
        handle = layer.attn_out_module.register_forward_hook(replace_output(source.attn_out[index]))
    elif component == "mlp_out":
        handle = layer.mlp_out_module.register_forward_hook(replace_output(source.mlp_out[index]))
    elif component == "resid_post":
        handle = layer.module.register_forward_hook(replace_output(source.resid_post[index]))
    else:
        raise ValueError(f"unknown component {component!r}")
    try:
        yield
    finally:
        handle.remove()
