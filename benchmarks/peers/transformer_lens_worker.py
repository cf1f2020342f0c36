"""Patching with TransformerLens: `run_with_hooks` on `blocks.{layer}.attn.hook_z`, one forward pass a cell.

Weights as they are in the checkpoint, nothing folded; logits of all positions, as the library returns them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformer_lens import ActivationCache
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

PACKAGE = "transformer-lens"


class TransformerLensPatcher:
    """A `TransformerBridge` without compatibility mode."""

    def __init__(self, folder: str, device: str, dtype: torch.dtype) -> None:
        self._model = TransformerBridge.boot_transformers(folder, device=device, dtype=dtype)
        self._model.eval()
        self._device = device
        self._clean: ActivationCache
        self._corrupted_ids: torch.Tensor
        self._answer_ids: tuple[int, int]

    def take_pair(self, clean_ids: Sequence[int], corrupted_ids: Sequence[int], answer_ids: Sequence[int]) -> None:
        """Cache `hook_z` of the clean run."""
        _, self._clean = self._model.run_with_cache(
            torch.tensor([clean_ids], device=self._device), names_filter=lambda name: name.endswith("attn.hook_z")
        )
        self._corrupted_ids = torch.tensor([corrupted_ids], device=self._device)
        self._answer_ids = (answer_ids[0], answer_ids[1])

    def patch(self, layer: int, head: int, positions: Sequence[int]) -> float:
        """LD of the patched run."""
        name = f"blocks.{layer}.attn.hook_z"

        def replace(z: torch.Tensor, hook: HookPoint) -> torch.Tensor:
            z[:, positions, head] = self._clean[name][:, positions, head]
            return z

        logits = self._model.run_with_hooks(self._corrupted_ids, return_type="logits", fwd_hooks=[(name, replace)])[
            0, -1
        ].float()
        positive, negative = self._answer_ids
        return float(logits[positive] - logits[negative])


def load(folder: str, device: str = "cpu", dtype: str = "float32") -> TransformerLensPatcher:
    """The library with the model of a folder."""
    return TransformerLensPatcher(folder, device, getattr(torch, dtype))
