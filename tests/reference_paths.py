"""The slow reference for path patching: the definition, step by step, with plain hooks and full forward passes.

For each path, after one pass of each run: a pass with the sender patched (frozen: and with everything that later
modules add held at what it was in the base run), in which the residual is read; a pass in which the receiver's layer
reads that residual, for the receiver's own values; a pass of the base run in which the receiver has them. Nothing of
`relscope.models` is used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from reference_attention import _IN_FORCE, AttentionReference, Edit


class PathReference(AttentionReference):
    """Full forward passes in which one receiver alone sees a sender's change."""

    def __init__(self, model: Any, family: str) -> None:
        super().__init__(model, family)
        self._kept: dict[Any, Tensor] = {}
        self.n_layers = int(model.config.get_text_config().num_hidden_layers)

    def sweep_paths(self, pair: Any, paths: Sequence[Any], direction: str) -> Tensor:
        """LD of a pair's base run for each path alone; float64."""
        base, source = (pair.corrupted, pair.clean) if direction == "denoise" else (pair.clean, pair.corrupted)
        return torch.tensor([self._path(base, source, pair.answer_ids, path) for path in paths], dtype=torch.float64)

    def _path(self, base: Any, source: Any, answer_ids: tuple[int, int], path: Any) -> float:
        receiver = path.receiver
        if receiver == "logits":
            final = self.n_layers - 1
            changed = self._changed_residual(base, source, path, "resid_post", final)
            return self.patched(base.ids, answer_ids, "resid_post", final, None, [len(base.ids) - 1], changed)
        layer, positions = receiver.layer, base.region(receiver.region)
        changed = self._changed_residual(base, source, path, "resid_pre", layer)
        if receiver.component == "resid_pre":
            return self.patched(base.ids, answer_ids, "resid_pre", layer, None, positions, changed)
        everywhere = range(len(base.ids))
        handle = self.hook("resid_pre", layer, None, everywhere, changed)
        if receiver.component == "z":
            values = self.activations(base.ids, "z", layer)
            handle.remove()
            return self.patched(base.ids, answer_ids, "z", layer, receiver.head, positions, values)
        values = self.inside(base.ids, receiver.component, layer)
        handle.remove()
        _IN_FORCE.edits[layer].append(Edit(receiver.component, receiver.head, positions, (), values))
        value = self.logit_diff(base.ids, answer_ids)
        _IN_FORCE.edits.clear()
        return value

    def _changed_residual(self, base: Any, source: Any, path: Any, component: str, layer: int) -> Tensor:
        """What is read after the sender was patched; [pos, d_model]."""
        sender, everywhere = path.sender, range(len(base.ids))
        key = base.ids, sender, path.variant, component, layer
        if key in self._kept:
            return self._kept[key]
        values = self._recorded(source.ids, sender.component, sender.layer)
        held = self._later_modules(sender) if path.variant == "frozen" else []
        of_base = {module: self._recorded(base.ids, *module) for module in held}
        with contextlib.ExitStack() as stack:
            handle = self.hook(*self._key(sender), base.region(sender.region), values)
            stack.callback(handle.remove)
            for module, what_it_was in of_base.items():
                stack.callback(self.hook(*module, None, everywhere, what_it_was).remove)
            self._kept[key] = self.activations(base.ids, component, layer)
        return self._kept[key]

    def _recorded(self, ids: tuple[int, ...], component: str, layer: int) -> Tensor:
        key = ids, component, layer
        if key not in self._kept:
            self._kept[key] = self.activations(ids, component, layer)
        return self._kept[key]

    def _later_modules(self, sender: Any) -> list[tuple[str, int]]:
        """The attention and MLP halves that come after the sender."""
        halves = [(half, layer) for layer in range(self.n_layers) for half in ("attn_out", "mlp_out")]
        if sender.component == "resid_pre":
            return halves
        half = "mlp_out" if sender.component == "mlp_out" else "attn_out"
        return halves[halves.index((half, sender.layer)) + 1 :]

    @staticmethod
    def _key(sender: Any) -> tuple[str, int, int | None]:
        return sender.component, sender.layer, sender.head
