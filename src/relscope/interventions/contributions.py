"""How much of the verdict does each head, each MLP and the embedding write itself? Readouts of one run.

The final residual is a sum, and so is LD before any soft cap, once the norms have the scale that they had in the run:

    LD = constant + sum of parts  w . N(part),      w the unembedding's row of yes less that of no
    N(part)    = gain * C part / scale              the final norm (`relscope.models.norms`) at that position
    head's part = P(out_proj(z of that head alone)), P the norm after attention, where the family has one, likewise

Known as direct logit attribution (e.g. Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"). It
sees what a part writes to the output directly, not what later parts make of it.

Cost: no forward pass; of each layer, the output projection of each position that is read, and of n_heads rows for each
group of positions that are averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from relscope.errors import InputError
from relscope.models import DecoderLayer, JudgeModel, LinearNorm, RecordedRun, linear_norm


@dataclass(frozen=True)
class DirectContributions:
    """What each part writes into LD = logit(yes) - logit(no) at the last token of one run; in logits, float32.

    The parts, `constant` included, sum to `ld_uncapped`. A final soft cap (Gemma 2) is no sum and is applied to none
    of them: `ld` is then what the model makes of `ld_uncapped`; elsewhere the two are the same, up to rounding.

    Attributes:
        embedding: the first layer's `resid_pre`, embeddings of positions and multipliers included.
        head: each head, through its slice of the output projection.
        attn_bias: what attention adds beside its heads: the biases of the output projection and of the norm after it.
        mlp: each MLP.
        constant: biases of the final norm and of the unembedding.
        ld_uncapped: LD before a final soft cap.
        ld: the run's LD.
    """

    embedding: float
    head: Float[Tensor, "layer head"]
    attn_bias: Float[Tensor, "layer"]
    mlp: Float[Tensor, "layer"]
    constant: float
    ld_uncapped: float
    ld: float

    @property
    def total(self) -> float:
        """The sum of all parts: `ld_uncapped`, up to rounding."""
        return self.embedding + float(self.head.sum() + self.attn_bias.sum() + self.mlp.sum()) + self.constant


@torch.no_grad()
def direct_contributions(judge: JudgeModel, run: RecordedRun, answer_ids: tuple[int, int]) -> DirectContributions:
    """Take the LD of a recorded run apart into what each part writes into it at the last token.

    Args:
        judge: the model of the run.
        run: of any prompt; it need not be recorded for restarts.
        answer_ids: of the positive and of the negative answer.

    Raises:
        InputError: the model fails a clause of the contract without which its parts do not sum to LD, or a norm is
            neither an RMS norm nor a layer norm.
    """
    judge.contract.require_readouts(judge.identity.name)
    last = run.n_positions - 1
    final = linear_norm(judge.final_norm, run.resid_post[-1])
    resid = run.resid_post[-1, last]
    weight, added = judge.answer_direction(answer_ids)
    reads = final.inverse_scale(resid) * weight

    def contribution(parts: Tensor) -> Tensor:
        return (final.unscaled(parts) @ reads).cpu()

    biases = torch.stack([_attention_bias(layer, run, last) for layer in judge.layers])
    logits = judge.answer_logits(resid, answer_ids)
    return DirectContributions(
        embedding=float(contribution(run.resid_pre[0, last])),
        head=(head_writes(judge, run, [(last,)])[0] @ weight).cpu(),
        attn_bias=contribution(biases),
        mlp=contribution(run.mlp_out[:, last]),
        constant=float(final.bias @ weight) + added,
        ld_uncapped=float(judge.final_norm(resid).float() @ weight) + added,
        ld=float(logits[0] - logits[1]),
    )


@torch.no_grad()
def head_writes(
    judge: JudgeModel, run: RecordedRun, groups: Sequence[Sequence[int]]
) -> Float[Tensor, "group layer head d_model"]:
    """What each head writes, as the unembedding reads it: `N(head's part)` above, averaged over groups of positions.

    At each position, the norms have the scale that they had there. The vectors are linear in what they are made of:
    they may be averaged over runs, and multiplied with any rows of the unembedding.

    Args:
        judge: the model of the run.
        run: of any prompt; it need not be recorded for restarts.
        groups: positions to average over, such as `prompt.region("query")`; single positions are groups of one.

    Returns:
        Float32, on the run's device; d_model * 4 bytes for each head of the model and each group.

    Raises:
        InputError: a group is empty, or as `direct_contributions` does.
    """
    judge.contract.require_readouts(judge.identity.name)
    for number, group in enumerate(groups):
        if len(group) == 0:
            raise InputError(f"group {number} of positions is empty: a head writes nothing at no position")
    final = linear_norm(judge.final_norm, run.resid_post[-1])
    scales = [final.inverse_scale(run.resid_post[-1, list(group)]) for group in groups]
    of_layers = [_writes_of_layer(layer, run, groups, final, scales) for layer in judge.layers]
    return torch.stack(of_layers, dim=1)


def _writes_of_layer(
    layer: DecoderLayer,
    run: RecordedRun,
    groups: Sequence[Sequence[int]],
    final: LinearNorm,
    final_scales: Sequence[Float[Tensor, "_"]],
) -> Float[Tensor, "group head d_model"]:
    """Only the scales differ from position to position: z is averaged with their weight, and then goes through once."""
    after = linear_norm(layer.norm_after_attention, run.attn_out[layer.index])
    averaged = []
    for group, final_scale in zip(groups, final_scales, strict=True):
        z = run.z[layer.index, list(group)]
        scale = final_scale * after.inverse_scale(layer.out_proj(z.flatten(-2)))
        averaged.append((scale[:, None, None] * z.float()).mean(0))
    written = layer.out_proj_by_head(torch.stack(averaged).to(run.z[layer.index].dtype))
    return final.unscaled(after.unscaled(written))


def _attention_bias(layer: DecoderLayer, run: RecordedRun, position: int) -> Float[Tensor, " d_model"]:
    """What attention adds to the residual stream at a position beside its heads."""
    after = linear_norm(layer.norm_after_attention, run.attn_out[layer.index])
    z = run.z[layer.index, position]
    return after.unscaled(layer.out_proj_bias(z)) * after.inverse_scale(layer.out_proj(z.flatten())) + after.bias
