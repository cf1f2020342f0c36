"""The model that judges: reads a prompt's verdict, records its run, recomputes any suffix of it from any layer.

The verdict is the logit difference LD = logit(yes) - logit(no) at the last token. It needs two rows of the unembedding
only, computed in float32: in bf16 the logits themselves have steps of 0.125 near |logit| = 16 to 32.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from relscope.errors import InputError
from relscope.models.architectures import Architecture, DecoderLayer, find_architecture, resolve_layers
from relscope.models.attention import (
    AttentionCall,
    AttentionFunction,
    SharedPrefixAttention,
    attention_replaced,
    unchanged,
)
from relscope.models.differences import BaseRows, on_differences
from relscope.models.edits import EditedAttention, LayerEdits
from relscope.models.prefixes import WORTH_SHARING, shared_by_all
from relscope.models.recording import RecordedRun, Recorder, cut_kwargs, record
from relscope.models.rows import Joining, Piece, advance_rows, goes_by_rows
from relscope.models.scoring import PositionEdit, final_hidden, final_hidden_of
from relscope.prompts import Prompt

if TYPE_CHECKING:
    from relscope.models.contract import Contract

TOKENS_RECORDED_AT_ONCE = 1024
TOKENS_PER_BATCH = 2048


@dataclasses.dataclass(frozen=True)
class ModelShape:
    """Sizes of a decoder-only model."""

    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_model: int
    d_head: int
    d_vocab: int
    n_parameters: int


@dataclasses.dataclass(frozen=True)
class ModelIdentity:
    """Which weights these are: enough to refuse mixing two models' rows in one run."""

    name: str
    kind: str  # "hub", "folder", "gguf" or "embedded"
    revision: str | None
    adapter: str | None
    dtype: str
    fingerprint: str  # SHA-256 over names, shapes and a sample of every weight
    model_type: str


class JudgeModel:
    """A causal language model with its tokenizer, opened for reading, patching and restarting.

    Args:
        model: a Hugging Face causal language model, in evaluation mode on one device.
        tokenizer: its fast tokenizer.
        identity: which weights these are.

    Attributes:
        layers: the decoder layers' modules, found through the architecture table.
        shape: sizes.
        known_type: False where the layout was recognised by structure and not by the model's type.
        edits: what changes the model's passes while it is in force, in the order in which it came into force.
    """

    def __init__(self, model: Any, tokenizer: Any, identity: ModelIdentity) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.identity = identity
        self.config = model.config.get_text_config(decoder=True)
        if getattr(self.config, "attn_logit_softcapping", None) and self.config._attn_implementation != "eager":
            # Early releases of transformers 5 choose SDPA here, which drops the soft cap in silence.
            model.set_attn_implementation("eager")
        self.decoder: nn.Module = model.get_decoder()
        self.architecture: Architecture
        self.architecture, self.known_type = find_architecture(self.config.model_type, self.decoder)
        self.layers: tuple[DecoderLayer, ...] = resolve_layers(self.architecture, self.decoder, self.config)
        self.final_norm = self.decoder.get_submodule(self.architecture.final_norm)
        self.unembedding: nn.Module = model.get_output_embeddings()
        self.shape = self._measure_shape()
        self.edits: list[PositionEdit] = []

    @property
    def device(self) -> torch.device:
        """Where token ids go in."""
        return self.model.get_input_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of activations."""
        of_norm = next(self.final_norm.parameters(), None)
        return self.model.dtype if of_norm is None else of_norm.dtype

    @functools.cached_property
    def contract(self) -> Contract:
        """The outcome of the load-time contract, checked when it is first asked for."""
        from relscope.models.contract import check_contract

        return check_contract(self)

    @torch.no_grad()
    def answer_logits(
        self, resid: Float[Tensor, "*row d_model"], answer_ids: tuple[int, int]
    ) -> Float[Tensor, "*row answer"]:
        """Logits of yes and no in float32, from the residual stream after the last layer (before the final norm)."""
        return self._answer_rows(self.final_norm(resid), answer_ids)

    def answer_direction(self, answer_ids: tuple[int, int]) -> tuple[Float[Tensor, " d_model"], float]:
        """LD before any soft cap, as a linear function of the normed residual: its vector, and what is added; float32.

        The vector is the unembedding's row of yes less that of no; what is added, the same of its bias.
        """
        yes, no = self.unembedding.weight[list(answer_ids)].float()  # type: ignore[index]
        bias = getattr(self.unembedding, "bias", None)
        return yes - no, 0.0 if bias is None else float(bias[answer_ids[0]].float() - bias[answer_ids[1]].float())

    @torch.no_grad()
    def token_logits(self, hidden: Float[Tensor, "*row d_model"], *, with_bias: bool) -> Float[Tensor, "*row d_vocab"]:
        """Logits of every token before any soft cap, from the normed residual, or from a part of it without the bias.

        Float32, of a product in the model's own number format.
        """
        logits = self.unembedding(hidden.to(self.dtype)).float()
        bias = getattr(self.unembedding, "bias", None)
        return logits if with_bias or bias is None else logits - bias.float()

    def _answer_rows(self, hidden: Tensor, answer_ids: tuple[int, int]) -> Tensor:
        rows = list(answer_ids)
        weight = self.unembedding.weight[rows].float()  # type: ignore[index]
        logits = hidden.float() @ weight.T.to(hidden.device)
        bias = getattr(self.unembedding, "bias", None)
        if bias is not None:
            logits = logits + bias[rows].float().to(hidden.device)
        return self._softcapped(logits)

    def _softcapped(self, logits: Tensor) -> Tensor:
        softcap = getattr(self.config, "final_logit_softcapping", None)
        return logits if softcap is None else torch.tanh(logits / softcap) * softcap

    @torch.no_grad()
    def logit_diff(
        self, ids: Sequence[Sequence[int]], answer_ids: Sequence[tuple[int, int]]
    ) -> Float[Tensor, "prompt"]:
        """LD = logit(yes) - logit(no) of each prompt, float32 on the CPU. Cost: one forward pass a prompt."""
        if len(ids) == 0:
            return torch.zeros(0)
        return self._logit_diff_of(final_hidden(self, ids, TOKENS_PER_BATCH), answer_ids).cpu()

    @torch.no_grad()
    def relevance(self, prompts: Sequence[Prompt], answer_ids: tuple[int, int]) -> Float[Tensor, "prompt"]:
        """LD of each rendered prompt, in the order given, float32 on the CPU. Cost: at most a forward pass a prompt.

        Within `relscope.ablated` it is the ablated model's; no other pass is told where a prompt's regions are.
        """
        hidden = final_hidden_of(self, prompts)
        logits = self._answer_rows(hidden, answer_ids)
        return (logits[:, 0] - logits[:, 1]).cpu()

    def differentiable_readout(
        self, ids: Sequence[Sequence[int]], answer_ids: Sequence[tuple[int, int]], tokens_per_batch: int
    ) -> tuple[Float[Tensor, "prompt"], Float[Tensor, "prompt"]]:
        """LD, and log P(yes or no), on the model's device and with gradients to weights that require them.

        The unembedding is applied to the last positions together: applied within the model it costs the backward
        pass a copy of its matrix for every prompt. `tokens_per_batch` bounds a batch's tokens, padding included.
        """
        hidden = final_hidden(self, ids, tokens_per_batch)
        logits = self._softcapped(self.unembedding(hidden).float())
        answers = logits.gather(1, torch.tensor([list(pair) for pair in answer_ids], device=logits.device))
        log_answered = answers.logsumexp(dim=1) - logits.logsumexp(dim=1)
        return self._logit_diff_of(hidden, answer_ids), log_answered

    def _logit_diff_of(self, hidden: Tensor, answer_ids: Sequence[tuple[int, int]]) -> Tensor:
        logits = torch.stack([self._answer_rows(h, a) for h, a in zip(hidden, answer_ids, strict=True)])
        return logits[:, 0] - logits[:, 1]

    def padded(self, ids: Sequence[Sequence[int]]) -> Int[Tensor, "prompt pos"]:
        """Prompts' token ids as one batch on the model's device, zeros on the right.

        Raises:
            InputError: a prompt has more tokens than the model has positions.
        """
        longest = max(map(len, ids))
        self.check_length(longest)
        rows = [[*prompt, *[0] * (longest - len(prompt))] for prompt in ids]
        return torch.tensor(rows, dtype=torch.long, device=self.device)

    @torch.no_grad()
    def next_token_probabilities(self, ids: Sequence[int]) -> Float[Tensor, "d_vocab"]:
        """Probability of every token to come next, float32 on the CPU, by the model's own head."""
        logits = self.model(input_ids=self.padded([ids]), use_cache=False).logits[0, -1]
        return torch.softmax(logits.float(), dim=-1).cpu()

    def record(self, ids: Sequence[int], *, for_restart: bool = True, with_products: bool = False) -> RecordedRun:
        """Run one prompt and keep its activations. Cost: one forward pass.

        Without `for_restart` the model's own attention runs, and the record can be patched from but not restarted.
        `with_products`, it is restarted on differences (`relscope.models.differences`).
        """
        (run,) = self.record_all([ids], for_restart=for_restart, with_products=with_products)
        return run

    def record_all(
        self, prompts: Sequence[Sequence[int]], *, for_restart: bool = True, with_products: bool = False
    ) -> list[RecordedRun]:
        """Run prompts together and keep their activations, as `record` does of one.

        Cost: one forward pass a prompt, less what all of them begin with, which is run once where that pays.
        """

        def recorded(of: Sequence[Sequence[int]], prefix: RecordedRun | None = None) -> list[RecordedRun]:
            return record(self, of, Recorder() if for_restart else None, with_products=with_products, prefix=prefix)

        if not prompts:
            return []
        prefix = None
        shared = [] if self.length_matters else shared_by_all(prompts)
        if for_restart and (len(prompts) - 1) * len(shared) >= WORTH_SHARING and self.contract.continuable:
            (prefix,) = recorded([shared])
        runs: dict[int, RecordedRun] = {}
        for batch in self.batches(prompts, TOKENS_RECORDED_AT_ONCE):
            runs.update(zip(batch, recorded([prompts[i] for i in batch], prefix), strict=True))
        return [runs[i] for i in range(len(prompts))]

    @torch.no_grad()
    def advance(
        self, layer: int, pieces: Sequence[Piece], joining: Sequence[Joining], *, only_last: bool
    ) -> tuple[list[Float[Tensor, "item out d_model"]], list[Float[Tensor, "row d_model"]]]:
        """`resid_post` of one layer for suffixes of any prompts, and for rows whose heads' outputs are given.

        With `only_last`, the suffixes' result is at their last position alone. Families in `ROW_FAMILIES` see all rows
        as one matrix; others see piece by piece.
        """
        block = self.layers[layer]

        def generic(piece: Piece) -> Tensor:
            return self.recompute_layer(layer, piece.resid_pre, piece.base, only_last, piece.edits)

        if not goes_by_rows(block):
            of_joining = []
            for unit in joining:
                with on_differences(block, [unit.base_rows]):
                    of_joining.append(block.after_attention(unit.resid_pre, block.attn_out(unit.z)))
            return [generic(piece) for piece in pieces], of_joining
        plain = [piece for piece in pieces if piece.edits is None]
        of_plain, of_joining = advance_rows(block, plain, joining, only_last=only_last)
        in_order = iter(of_plain)
        return [next(in_order) if piece.edits is None else generic(piece) for piece in pieces], of_joining

    @torch.no_grad()
    def recompute_layer(
        self,
        layer: int,
        resid_pre: Float[Tensor, "item suffix d_model"],
        base: RecordedRun,
        only_last: bool = False,
        edits: LayerEdits | None = None,
    ) -> Float[Tensor, "item out d_model"]:
        """`resid_post` of one layer at the last positions of a prompt, given their `resid_pre`.

        The positions before the suffix are as in `base`: their keys and values are shared by all items. With
        `only_last` the MLP is computed, and the result returned, at the last position alone. `edits` replaces what the
        layer computes, each item's own; what it reads is given.
        """
        block = self.layers[layer]
        start = base.n_positions - resid_pre.shape[1]
        prefix_k, prefix_v = base.k[layer][:, :start], base.v[layer][:, :start]
        mask = base.mask[layer][start:]
        edit = unchanged if edits is None else edits
        attention = (
            SharedPrefixAttention(prefix_k, prefix_v, mask)
            if edits is None
            else EditedAttention(prefix_k, prefix_v, mask, edits)
        )
        rows = BaseRows(base, len(resid_pre), slice(start, None))
        with on_differences(block, [rows]):
            raw = self._attend(layer, resid_pre, base, attention)
        attn_out = block.norm_after_attention(raw)
        if only_last:
            resid_pre, attn_out = resid_pre[:, -1:], attn_out[:, -1:]
            rows = BaseRows(base, len(resid_pre), slice(-1, None))
        resid_mid = resid_pre + edit("attn_out", attn_out)
        with on_differences(block, [rows]):
            mlp_out = edit("mlp_out", block.mlp_out(resid_pre if block.parallel else resid_mid))
        return edit("resid_post", resid_mid + mlp_out)

    @torch.no_grad()
    def attention_call(
        self, layer: int, resid_pre: Float[Tensor, "item suffix d_model"], base: RecordedRun
    ) -> AttentionCall:
        """What a layer's attention is computed from at the last positions of a prompt, given their `resid_pre`.

        Queries, keys and values of all heads, as attention sees them. Cost: the layer's projections.
        """
        seen: list[AttentionCall] = []

        def keep(call: AttentionCall, /) -> Tensor:
            seen.append(call)
            return torch.zeros_like(call.q.transpose(1, 2))  # the heads' outputs are not wanted

        self._attend(layer, resid_pre, base, keep)
        return seen[0]

    def _attend(self, layer: int, resid_pre: Tensor, base: RecordedRun, function: AttentionFunction) -> Tensor:
        """A layer's attention half at the last positions of a prompt, before any norm after it."""
        block, start = self.layers[layer], base.n_positions - resid_pre.shape[1]
        kwargs = {**cut_kwargs(base.layer_kwargs[layer], slice(start, None)), "attention_mask": None}
        with attention_replaced(self.config, function):
            raw, _ = block.attention(block.norm_before_attention(resid_pre), **kwargs)
        return raw

    @functools.cached_property
    def length_matters(self) -> bool:
        """Whether the length of what is run together changes the rotary frequencies, and so every number."""
        return bool(_rope_types(self.config) & {"longrope", "dynamic"})

    def batches(self, prompts: Sequence[Sequence[int]], tokens_per_batch: int | None = None) -> Iterator[list[int]]:
        """Numbers of the prompts that are run together, the longest first: nearly equal lengths need little padding.

        `tokens_per_batch` bounds a batch's tokens, padding included; None: `TOKENS_PER_BATCH`.
        """
        tokens_per_batch = TOKENS_PER_BATCH if tokens_per_batch is None else tokens_per_batch
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        while order:
            n_fit = 1 if self.length_matters else max(1, tokens_per_batch // len(prompts[order[-1]]))
            yield order[-n_fit:]
            order = order[:-n_fit]

    def check_length(self, n_tokens: int) -> None:
        """Refuse more tokens than the model has positions.

        Raises:
            InputError: says how many it has.
        """
        limit = getattr(self.config, "max_position_embeddings", None)
        if limit is not None and n_tokens > limit:
            raise InputError(
                f"a prompt has {n_tokens} tokens and the model reads at most {limit}; lower max_document_tokens"
            )

    def _measure_shape(self) -> ModelShape:
        config = self.config
        n_heads = int(config.num_attention_heads)
        d_model = int(config.hidden_size)
        return ModelShape(
            n_layers=len(self.layers),
            n_heads=n_heads,
            n_kv_heads=int(getattr(config, "num_key_value_heads", None) or n_heads),
            d_model=d_model,
            d_head=int(getattr(config, "head_dim", None) or d_model // n_heads),
            d_vocab=int(config.vocab_size),
            n_parameters=int(sum(p.numel() for p in self.model.parameters())),
        )


def _rope_types(config: Any) -> set[str]:
    """How rotary frequencies are scaled; some models say so for each type of layer."""
    options = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    each = [options, *(of for of in options.values() if isinstance(of, dict))]
    return {str(of.get("rope_type", of.get("type"))) for of in each}
