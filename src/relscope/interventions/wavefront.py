"""What does each patch do to the verdict, exactly, at a fraction of a forward pass for each?

A patch at layer l and positions P changes nothing in earlier layers, and nothing at positions before the first of P:
attention is causal. So the patched runs are recomputed only after layer l and only from that first position on, as
one batch: layer by layer, the patches of earlier layers advance together through the layer, then this layer's patches
join them (a "wavefront"). Each layer's weights are read once for the whole batch, the keys and values of the shared
prefix once for all items, the MLP of a patched layer runs on patched rows only, and in the last layer only the last
position counts.

Cost of n patches whose suffix is s of t tokens long: about n * s / (2 t) forward passes, less what is trimmed,
instead of n.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from relscope.interventions.sites import Site
from relscope.models import JudgeModel, RecordedRun

# Rows (item x position) that go through a layer at once: fewer do not fill the cores, more do not fit their caches.
ROWS_PER_CHUNK = 1024


@dataclass(frozen=True)
class PlacedSite:
    """A site with the prompt positions it patches: those of its region from the first differing token on."""

    site: Site
    positions: tuple[int, ...]


@torch.no_grad()
def sweep(
    judge: JudgeModel,
    base: RecordedRun,
    source: RecordedRun,
    placed: Sequence[PlacedSite],
    read_out: Callable[[Tensor], Tensor],
) -> Tensor:
    """Patch each site alone, from `source` into `base`, and read out the verdict.

    Args:
        judge: the model.
        base: the run that is patched.
        source: the run that the values come from; same number of positions.
        placed: the sites; all begin at the same position.
        read_out: maps the final residual at the last position, [item, d_model], to a value for each item.

    Returns:
        The read-out values, in the order of `placed`.
    """
    start = placed[0].positions[0]
    n_suffix = base.n_positions - start
    last_layer = judge.shape.n_layers - 1
    by_layer: dict[int, dict[tuple[str, tuple[int, ...]], list[int]]] = defaultdict(lambda: defaultdict(list))
    for number, item in enumerate(placed):
        by_layer[item.site.layer][item.site.component, item.positions].append(number)

    # Slots are filled in the order in which patches join; `number_of` maps a slot back to its place in `placed`.
    in_flight = base.resid_post.new_empty(len(placed), n_suffix, judge.shape.d_model)
    number_of: list[int] = []
    result: Tensor | None = None
    chunk = max(1, ROWS_PER_CHUNK // n_suffix)
    for layer in range(min(by_layer), last_layer + 1):
        at_end = layer == last_layer
        n_before = len(number_of)
        finals = []
        for first in range(0, n_before, chunk):
            part = in_flight[first : min(first + chunk, n_before)]
            advanced = judge.recompute_layer(layer, part, base, only_last=at_end)
            if at_end:
                finals.append(advanced[:, -1])
            else:
                part.copy_(advanced)
        for (component, positions), numbers in by_layer[layer].items():
            at_once = max(1, ROWS_PER_CHUNK // len(positions))
            for first in range(0, len(numbers), at_once):
                some = numbers[first : first + at_once]
                heads = [placed[n].site.head for n in some]
                joined = in_flight[len(number_of) : len(number_of) + len(some)]
                joined.copy_(base.resid_post[layer, start:].expand_as(joined))
                joined[:, [p - start for p in positions]] = _patched_rows(
                    judge, base, source, component, layer, heads, positions
                )
                number_of += some
                if at_end:
                    finals.append(joined[:, -1])
        if at_end:
            values = read_out(torch.cat(finals))
            result = torch.empty_like(values)
            result[number_of] = values
    assert result is not None  # the loop always reaches the last layer
    return result


def _patched_rows(
    judge: JudgeModel,
    base: RecordedRun,
    source: RecordedRun,
    component: str,
    layer: int,
    heads: Sequence[int | None],
    positions: tuple[int, ...],
) -> Float[Tensor, "item position d_model"]:
    """`resid_post` of the patched layer at the patched positions, for each of several patches there."""
    block = judge.layers[layer]
    at = list(positions)
    resid_pre = base.resid_pre[layer, at]
    if component == "resid_post":
        rows = source.resid_post[layer, at]
    elif component == "mlp_out":
        rows = resid_pre + base.attn_out[layer, at] + source.mlp_out[layer, at]
    else:
        if component == "attn_out":
            attn_out = source.attn_out[layer, at]
        else:
            z = base.z[layer, at].expand(len(heads), *base.z[layer, at].shape).clone()
            for item, head in enumerate(heads):
                z[item, :, head] = source.z[layer, at, head]
            attn_out = block.attn_out(z.flatten(-2))
        resid_mid = resid_pre + attn_out
        mlp_out = base.mlp_out[layer, at] if block.parallel else block.mlp_out(resid_mid)
        rows = resid_mid + mlp_out
    return rows.expand(len(heads), *rows.shape[-2:])


def items_that_fit(judge: JudgeModel, n_suffix: int, memory_bytes: int) -> int:
    """How many patches may be in flight at once so that their residuals stay within `memory_bytes`; at least one."""
    return max(1, memory_bytes // (n_suffix * judge.shape.d_model * judge.dtype.itemsize))
