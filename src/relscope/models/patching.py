"""The model's plain patch: while a context is open, activations are replaced by hooks."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from relscope.models.architectures import DecoderLayer, first_tensor
from relscope.models.attention import AttentionCall, EditFunction, attend, attention_replaced, visible
from relscope.models.edits import ATTENTION_COMPONENTS, LayerEdits, Replacement
from relscope.models.recording import RecordedRun


@contextlib.contextmanager
def patched(
    layers: Sequence[DecoderLayer], config: Any, replacements: Sequence[Replacement], source: RecordedRun
) -> Iterator[None]:
    """Within the context, the model computes with the replacements' values in `source`, one prompt at a time.

    What lies inside attention (q, k, v, scores, ...) is replaced in an attention function of ours, which then stands
    in for the model's own, and must have been recorded; all else by hooks on the model's modules.
    """
    by_layer: dict[int, list[Replacement]] = defaultdict(list)
    for replacement in replacements:
        by_layer[replacement.layer].append(replacement)
    edits = {layer: LayerEdits(source, [of]) for layer, of in by_layer.items()}
    with contextlib.ExitStack() as stack:
        if any(replacement.component in ATTENTION_COMPONENTS for replacement in replacements):
            stack.enter_context(attention_replaced(config, _edited_by_layer(edits)))
        for layer, of in by_layer.items():
            for component in dict.fromkeys(r.component for r in of):
                if component not in ATTENTION_COMPONENTS:
                    handle = hook(layers[layer], component, source.z.shape[-2], edits[layer])
                    stack.callback(handle.remove)
        yield


def _edited_by_layer(edits: dict[int, LayerEdits]) -> Any:
    def attention(call: AttentionCall) -> Tensor:
        edit = edits.get(call.layer)
        mask = visible(call)
        return attend(call, mask) if edit is None else attend(call, mask, edit)

    return attention


def hook(layer: DecoderLayer, component: str, n_heads: int, edit: EditFunction) -> RemovableHandle:
    """Let `edit` replace a component that hooks on modules can reach, until the hook is removed.

    It is given `z` as [run, pos, head, d_head], and what belongs to a whole layer as [run, pos, d_model].
    """

    def replace_output(_module: nn.Module, _args: Any, output: Any) -> Any:
        changed = edit(component, first_tensor(output))
        return changed if isinstance(output, Tensor) else (changed, *output[1:])

    def replace_input(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (edit(component, args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": edit(component, kwargs["hidden_states"])}

    def replace_heads(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (edit(component, args[0].unflatten(-1, (n_heads, -1))).flatten(-2), *args[1:])

    if component == "z":
        return layer.out_proj.register_forward_pre_hook(replace_heads)
    if component == "resid_pre":
        return layer.module.register_forward_pre_hook(replace_input, with_kwargs=True)
    modules = {"attn_out": layer.attn_out_module, "mlp_out": layer.mlp_out_module, "resid_post": layer.module}
    return modules[component].register_forward_hook(replace_output)
