"""The plain way: one full forward pass for each patch, with a hook. For models that cannot be restarted.

Slow and simple. It asks nothing of the model but that its modules are found where the architecture table says.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from relscope.interventions.placing import PlacedPatch
from relscope.models import JudgeModel, RecordedRun, patched


@torch.no_grad()
def full_pass(
    judge: JudgeModel, ids: Sequence[int], answer_ids: tuple[int, int], item: PlacedPatch, source: RecordedRun
) -> Float[Tensor, "1"]:
    """LD of the prompt `ids` with one patch from `source`. Cost: one forward pass."""
    with patched(judge.layers, judge.config, item.replacements, source):
        return judge.logit_diff([ids], [answer_ids])
